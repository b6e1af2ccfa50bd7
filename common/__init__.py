"""What every package may use: errors that users see, the hint to the nearest word, strict YAML, files written whole."""
