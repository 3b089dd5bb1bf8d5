"""Arithmetic on one machine: no sockets; only `backend.ProtocolKernels` knows a party."""
