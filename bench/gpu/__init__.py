"""What only a card can tell: memory, speed, and which bits are the same."""
