# throughput under a held snapshot; gnuplot -e "out='DIRECTORY'"
set terminal svg size 800,450 font 'sans-serif,13' background 'white'
set output out.'/held.svg'
set title 'One old snapshot held: jobs claimed and completed per second'
set xlabel 'seconds since the snapshot'
set yrange [0:*]
set format y "%'.0f"
set grid ytics
set key outside bottom center horizontal
set datafile separator "\t"
series = 'jobq plain graphile pgboss'
titles = "'jobq' 'plain SQL' 'graphile-worker' 'pg-boss, batches of 1,000'"
have(name) = int(system('test -s "'.out.'/held-'.name.'.tsv" && echo 1 || echo 0'))
plot for [i = 1:words(series)] have(word(series, i)) ? out.'/held-'.word(series, i).'.tsv' : '/dev/null' \
	using 1:2 with lines linewidth 2 title word(titles, i)
