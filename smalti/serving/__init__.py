"""HTTP server: an Images API that existing clients know, jobs with live previews, and the files of the web studio."""
