"""What runs survive: kills, full disks, damaged files, odd weights, hostile names."""
