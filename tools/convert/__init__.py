"""Hugging Face folders and GGUF files to GGUF files of the type that is asked for; see command.py."""
