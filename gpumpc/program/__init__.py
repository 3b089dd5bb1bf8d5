"""A network lowered to protocol steps, which the parties agree on and run, its plan and weights as
shares.
"""
