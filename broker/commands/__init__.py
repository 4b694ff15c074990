"""The commands of `broker`, a module each: `add` puts its flags into the parser and says what to run."""
