"""What the parties agree on and run: a network lowered to protocol steps, its plan, its weights as
shares.
"""
