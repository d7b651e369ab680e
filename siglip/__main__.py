from siglip.cli import main

main()
