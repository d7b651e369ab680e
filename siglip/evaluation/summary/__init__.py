"""What many results say together: a table (Markdown, CSV), and a page to look at."""
