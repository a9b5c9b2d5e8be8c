"""Starting the ranks of a run and staying in charge of them."""
