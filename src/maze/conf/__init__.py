"""The configs that come with Maze, one folder for each config group."""
