"""Statistics of a finished dataset: from raw to kept, lengths, languages, sources; as text, JSON and one HTML
page."""
