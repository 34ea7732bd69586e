"""What `make bench` measures: ratios inside one interleaved run, each yardstick beside what it is compared with."""
