"""A network lowered to protocol steps that all parties agree on; its plan and weight shares."""
