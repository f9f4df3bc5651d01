"""How near two pictures are: by pixels, by perception, by the person they show."""
