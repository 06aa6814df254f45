"""What a record is: its files, its keys, its samples, and how the record of a killed run is salvaged."""
