"""Commands of more than one word, by their first: parse, call, print. They import what they call inside."""
