"""The user's and the owner's side: share inputs, ask both servers, reveal sealed results."""
