"""What several test files share: writers of tiny data sets with known contents."""
