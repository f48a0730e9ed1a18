"""What ships in the box, through the same hooks as any plugin."""
