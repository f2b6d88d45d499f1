"""What every room uses: argument checks, atomic files, devices, images, random streams."""
