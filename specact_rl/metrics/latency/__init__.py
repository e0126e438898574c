"""How long an agent takes when it acts one step after the other, and when it speculates."""
