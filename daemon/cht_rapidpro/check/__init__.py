"""`cht-rapidpro check`: every dependency looked at once, with what each finding means and what to do about it."""
