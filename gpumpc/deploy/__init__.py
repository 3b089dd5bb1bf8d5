"""A party's keys and configuration, and all three parties on one machine."""
