"""The story of one run, of a baseline, of a capacity search and of a profile. Each of them makes a record."""
