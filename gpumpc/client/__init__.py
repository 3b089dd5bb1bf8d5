"""The user's and the owner's side: share inputs, ask the two servers, put sealed results
together."""
