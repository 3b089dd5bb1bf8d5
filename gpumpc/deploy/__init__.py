"""What a party is given before it starts: keys, configuration, and all three parties on one
machine.
"""
