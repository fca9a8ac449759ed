"""Who may call: credentials read, told apart, and the secrets that takes."""
