"""The version, on a floor of its own so that every room can say it."""

VERSION = "0.1.0"
