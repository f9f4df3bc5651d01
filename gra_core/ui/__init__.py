"""The web page: `page` draws it, `session` does what it asks for, `theme` and page.css say how it looks."""
