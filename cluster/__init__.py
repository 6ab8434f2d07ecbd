"""Who owns a key, who agrees, who answers."""
