"""Edit directions: the registry that sliders read, and how the directions were fitted."""
