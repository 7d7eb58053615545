# claim latency against backlog; gnuplot -e "out='DIRECTORY'"
set terminal svg size 800,450 font 'sans-serif,13' background 'white'
set output out.'/backlog.svg'
set title 'One claim, by the number of jobs that are ready'
set xlabel 'jobs ready'
set ylabel 'milliseconds'
set logscale x
set format x '10^{%T}'
set yrange [0:*]
set grid ytics
set key outside bottom center horizontal
set datafile separator "\t"
plot out.'/backlog-jobq.tsv' with linespoints linewidth 2 title 'jobq', \
	out.'/backlog-plain.tsv' with linespoints linewidth 2 title 'plain SQL'
