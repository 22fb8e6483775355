"""What a URL's scheme names: one module for each scheme, which makes a `Place` of a URL."""
