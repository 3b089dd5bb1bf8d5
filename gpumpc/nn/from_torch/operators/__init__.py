"""The operators of torch that are imported, by kind; `handlers` names each one's function."""
