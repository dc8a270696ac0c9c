"""The wire: bytes to lines to messages to conversations, without a socket in sight."""
