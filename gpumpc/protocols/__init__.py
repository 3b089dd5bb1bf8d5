"""Two parties, one subject a file: the correlation, its dealing, its use, its cost.

Every public function says under the same five headings what it Computes, what it Hides and why, its
Cost, its Error law and its Source. "PROTOCOLS.md" there means docs/protocols.md, where the proofs
stand.
"""
