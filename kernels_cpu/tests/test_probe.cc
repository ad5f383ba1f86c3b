#include "check.h"
#include "core/isa.h"

alignas(64) static uint8_t buffer[4096];

int main() {
    for (int32_t isa = 0; isa < EI_ISA_COUNT; ++isa) {
        if (!(ei_capabilities() & ei::isa_bit(isa))) {
            CHECK(ei_probe_read(isa, buffer, sizeof buffer) == 0 && ei_probe_int8(isa, 1) == 0, "%s ran where it cannot", ei_isa_name(isa));
            continue;
        }
        const uint64_t before = ei_probe_read(isa, buffer, sizeof buffer);
        if (before == 0) continue;
        for (size_t at = 0; at < sizeof buffer; at += 8) {
            buffer[at] = 1;
            CHECK(ei_probe_read(isa, buffer, sizeof buffer) != before, "%s skips byte %d", ei_isa_name(isa), static_cast<int>(at));
            buffer[at] = 0;
        }
        CHECK(ei_probe_int8(isa, 100) % 200 == 0, "%s counts", ei_isa_name(isa));
    }
    return check::result();
}
