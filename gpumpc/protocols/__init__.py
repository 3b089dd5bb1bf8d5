"""Two-party protocols, one subject a file: the correlation, its dealing, its use, its cost.

Every step says under the same five headings what it Computes, what it Hides and why, its Cost, its
Error law and its Source. The proofs are in docs/protocols.md.
"""
