"""What nodes say to each other: frames, message bodies, statuses, versions. Pure; carrying them is transport's part."""
