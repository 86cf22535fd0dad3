"""`cht-rapidpro check`: checks every dependency, and says what each finding means and what to do about it."""
