# jobq: make, make install, make installcheck as with any extension (PGXS);
# make demo, try and test need nothing before them and install nothing.

MODULE_big = jobq
OBJS = $(patsubst %.c,%.o,$(sort $(wildcard src/*.c src/*/*.c)))
PGFILEDESC = "jobq - a job queue inside the database"

EXTENSION = jobq
DATA = $(sort $(wildcard jobq--*.sql))

REGRESS = $(patsubst sql/%.sql,%,$(sort $(wildcard sql/*.sql)))
REGRESS_OPTS = --load-extension=jobq

# make WERROR= for a compiler that knows warnings which ours does not
WERROR = -Werror
PG_CPPFLAGS = -I$(srcdir)/src
PG_CFLAGS = -Wextra -Wno-unused-parameter -Wno-sign-compare \
	-Wno-missing-field-initializers $(WERROR)
ifneq (,$(findstring clang,$(CC)))
# which does not know all that gcc built the server with
PG_CFLAGS += -Wno-unknown-warning-option -Wno-ignored-optimization-argument -Wno-ignored-attributes
endif

EXTRA_CLEAN = $(WORKER)
WORKER = worker/jobq-worker
WORKER_SRC = $(sort $(wildcard worker/*.c))

PG_CONFIG ?= pg_config

.DEFAULT_GOAL = all
.PHONY: demo try test bench soak indent

# These work in a private copy of the server; see tools/prepare.
# KIND=regress|isolation|tap and ONLY="name ..." select tests, FLOW=file.json
# names a workflow to run as the demo: the document of a flow, or in WfFormat.
demo:
	@PG_CONFIG='$(PG_CONFIG)' FLOW='$(FLOW)' tools/prepare demo/run

# psql in a server with jobq, which is removed afterwards
try:
	@PG_CONFIG='$(PG_CONFIG)' tools/prepare demo/try

test:
	@PG_CONFIG='$(PG_CONFIG)' KIND='$(KIND)' ONLY='$(ONLY)' tools/prepare test/run

# QUICK=1 takes less time and says less; ONLY="name ..." selects files of
# bench/figures; soak is what takes its time.
bench:
	@PG_CONFIG='$(PG_CONFIG)' QUICK='$(QUICK)' ONLY='$(ONLY)' tools/prepare bench/run

soak:
	@PG_CONFIG='$(PG_CONFIG)' QUICK='$(QUICK)' ONLY='$(or $(ONLY),soak soak-retention)' tools/prepare bench/run

indent:
	@PG_CONFIG='$(PG_CONFIG)' tools/indent

# They must also work before the server's makefiles are there.
ifneq (,$(or $(filter-out demo try test bench soak indent,$(MAKECMDGOALS)),$(if $(MAKECMDGOALS),,all)))

PGXS := $(shell $(PG_CONFIG) --pgxs 2>/dev/null)
ifeq (,$(PGXS))
$(error There is no "$(PG_CONFIG)": set PG_CONFIG, or install postgresql-server-dev-N, N being the server's major version)
endif
# Debian's package of the client has pgxs.mk, but no headers.
HEADER := $(shell $(PG_CONFIG) --includedir-server)/postgres.h
ifeq (,$(and $(wildcard $(PGXS)),$(wildcard $(HEADER))))
$(error "$(PG_CONFIG)" is of a server without headers, for there is no $(HEADER): set PG_CONFIG, \
	or install postgresql-server-dev-$(shell $(PG_CONFIG) --version | sed 's/[^0-9]*\([0-9]*\).*/\1/'))
endif
override with_llvm = no
include $(PGXS)

$(OBJS): Makefile $(wildcard src/*/*.h)

all: $(WORKER)
install: install-worker
uninstall: uninstall-worker

$(WORKER): $(WORKER_SRC) $(wildcard worker/*.h) Makefile
	$(CC) $(CPPFLAGS) -I$(includedir) $(CFLAGS) $(WORKER_SRC) $(LDFLAGS) $(LDFLAGS_EX) -L$(libdir) -lpq -o $@

.PHONY: install-worker uninstall-worker
install-worker: $(WORKER)
	$(MKDIR_P) '$(DESTDIR)$(bindir)' '$(DESTDIR)$(mandir)/man1'
	$(INSTALL_PROGRAM) $(WORKER) '$(DESTDIR)$(bindir)/'
	$(INSTALL_DATA) worker/jobq-worker.1 '$(DESTDIR)$(mandir)/man1/'

uninstall-worker:
	rm -f '$(DESTDIR)$(bindir)/jobq-worker' '$(DESTDIR)$(mandir)/man1/jobq-worker.1'

endif
