"""Robustness libraries behind one door each; nothing else imports them."""
