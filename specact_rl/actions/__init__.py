"""What an action is: its type, wire form, canonical form, and how far two of them agree."""
