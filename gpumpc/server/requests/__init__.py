"""The requests of clients: the handler that receives them, and a class for each record of
`gpumpc.messages` under the record's name.
"""
