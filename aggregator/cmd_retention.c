#include "aggregator/cmd_retention.h"

#include "aggregator/retention.h"

#include <inttypes.h>
#include <stdlib.h>

enum { EXIT_OVER = 1 };

static void print_row_text(enum retention_store store, const struct retention_row *row) {
    char age[24] = "-", limit[24] = "-";
    if (row->n > 0)
        snprintf(age, sizeof age, "%" PRIu32, row->age);
    if (row->n > 0 && row->limit != RETENTION_NO_LIMIT)
        snprintf(limit, sizeof limit, "%" PRIu32, row->limit);
    printf("%-40s%14" PRIu64 "%10s%10s  %s\n", retention_store_text(store), row->n, age, limit,
           row->n_over > 0 ? "OVER" : "kept");
}

static void print_row_json(enum retention_store store, const struct retention_row *row) {
    printf("%s{\"store\":\"%s\",\"items\":%" PRIu64, store == 0 ? "" : ",", retention_store_name(store), row->n);
    if (row->n > 0)
        printf(",\"oldest_days\":%" PRIu32, row->age);
    if (row->n > 0 && row->limit != RETENTION_NO_LIMIT)
        printf(",\"limit_days\":%" PRIu32, row->limit);
    printf(",\"over\":%" PRIu64 "}", row->n_over);
}

int run_retention(const struct config *config, bool json) {
    struct retention retention = {0};
    struct err err;
    if (retention_read_files(&retention, config, &err) != 0 || retention_read_state(&retention, config, &err) != 0 ||
        retention_read_events(&retention, config, &err) != 0)
        return cli_error(EXIT_UNAVAILABLE, "%s", err.text);
    bool over = retention_over(&retention);
    if (json)
        printf("{\"kept\":%s,\"stores\":[", over ? "false" : "true");
    else
        printf("%-40s%14s%10s%10s\n", "store", "items", "oldest", "limit");
    for (enum retention_store store = 0; store < RETENTION_STORES; store++)
        if (json)
            print_row_json(store, &retention.rows[store]);
        else
            print_row_text(store, &retention.rows[store]);
    printf("%s", json ? "]}\n" : "ages and limits in days\n");
    return over ? EXIT_OVER : 0;
}
