"""Whether generated images are realistic, diverse, and no copies of patients."""
