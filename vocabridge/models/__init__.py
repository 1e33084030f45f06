"""Models by name: loading, value networks, expert pairs, prompts and chats as token ids."""
