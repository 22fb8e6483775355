"""One module for each command. No other module imports a helper from here."""
