// Attention over each kind of cache: every ISA against scalar bit for bit; scalar against double precision; and the same token alone, in
// company, with its cells shuffled, its heads split, its cells dealt out in parts, always the same bits.
#include <algorithm>
#include <cmath>

#include "check.h"
#include "core/formats.h"
#include "core/half.h"
#include "core/isa.h"
#include "core/kernel.h"
#include "random.h"

#ifdef EI_TEST_EVEX
namespace ei {
extern const Kernel ei_kernel_attention_q8_0_evex;
}
#endif

namespace {

using ei::Kernel;

// Keys or values, [cell][head] of what a head stores.
struct Cache {
    const ei::Format *format;
    int n_kv_heads, head_dim;
    std::vector<uint8_t> bytes;

    size_t head_bytes() const { return static_cast<size_t>(head_dim) / format->block_size * format->block_bytes; }
    uint8_t *at(int cell, int head) { return bytes.data() + static_cast<size_t>(cell * n_kv_heads + head) * head_bytes(); }
    bool blocks() const { return format->id == EI_FORMAT_Q8_0; }

    double value(int cell, int head, int d) {
        uint16_t half;
        if (!blocks()) {
            std::memcpy(&half, at(cell, head) + 2 * d, sizeof half);
            return ei::half_to_float(half);
        }
        const uint8_t *const block = at(cell, head) + static_cast<size_t>(d / 32) * sizeof(ei::BlockQ8_0);
        std::memcpy(&half, block, sizeof half);
        return double{ei::half_to_float(half)} * static_cast<int8_t>(block[2 + d % 32]);
    }
    // Every half of a cell, a scale or an element: where it lies.
    int n_halves() const { return blocks() ? head_dim / 32 : head_dim; }
    void set_half(int cell, int head, int i, uint16_t half) {
        std::memcpy(at(cell, head) + static_cast<size_t>(i) * (blocks() ? sizeof(ei::BlockQ8_0) : sizeof half), &half, sizeof half);
    }
    // Elements within +-scale, all int8 with their most negative too.
    void fill(Random &random, float scale) {
        for (uint8_t &byte : bytes) byte = static_cast<uint8_t>(random.below(256));
        const float most = blocks() ? scale / 128 : scale;
        set_halves([&] { return ei::float_to_half(random.unit() * most); });
    }
    template <class Half>
    void set_halves(Half half) {
        for (int i = 0; i < static_cast<int>(bytes.size() / head_bytes()); ++i) {
            for (int h = 0; h < n_halves(); ++h) set_half(i / n_kv_heads, i % n_kv_heads, h, half());
        }
    }
};

struct Case {
    int n_kv, head_dim, n_group, n_kv_heads, n_tokens;
    Cache k, v;
    std::vector<uint16_t> mask;
    std::vector<float> q;

    int n_heads() const { return n_group * n_kv_heads; }
    uint16_t &mask_at(int token, int cell) { return mask[static_cast<size_t>(token * n_kv + cell)]; }
    float &q_at(int token, int head, int d) { return q[static_cast<size_t>((token * n_heads() + head) * head_dim + d)]; }
};

struct Size {
    int n_kv, head_dim, n_group, n_kv_heads, n_tokens, n_sequences;
};

Case make(Random &random, int32_t format, Size size) {
    const Cache empty{ei::find_format(format), size.n_kv_heads, size.head_dim, {}};
    Case c{size.n_kv, size.head_dim, size.n_group, size.n_kv_heads, size.n_tokens, empty, empty, {}, {}};
    for (Cache *cache : {&c.k, &c.v}) cache->bytes.resize(static_cast<size_t>(c.n_kv * c.n_kv_heads) * empty.head_bytes());
    c.k.fill(random, 2);
    c.v.fill(random, 1);
    for (int i = 0; i < c.n_kv; i += 1 + random.below(60)) {
        c.v.set_half(i, random.below(c.n_kv_heads), 0, ei::float_to_half(random.unit() * 20));
    }
    c.mask.resize(static_cast<size_t>(c.n_tokens * c.n_kv));
    c.q.resize(static_cast<size_t>(c.n_tokens * c.n_heads() * c.head_dim));
    for (float &x : c.q) x = random.unit() * 3;
    // Cells belong to sequences at random; a token sees its sequence up to a cell of its own.
    std::vector<int> owner(static_cast<size_t>(c.n_kv));
    for (int &o : owner) o = random.below(size.n_sequences + 1);
    for (int t = 0; t < c.n_tokens; ++t) {
        const int end = 1 + random.below(c.n_kv);
        for (int i = 0; i < c.n_kv; ++i) c.mask_at(t, i) = i < end && owner[static_cast<size_t>(i)] == t % size.n_sequences ? 0 : 0xfc00;
    }
    return c;
}

struct Range {
    int first, n;
};

const Kernel &scalar(const Case &c) { return *ei::choose_kernel(ei::Op::attention, c.k.format->id, EI_ISA_SCALAR); }

// Every kernel that runs here. The AVX-VNNI one a second time, in the encoding of AVX-512-VNNI.
template <class Check>
void for_kernels(const Case &c, Check check) {
    for (int32_t isa = 0; isa < EI_ISA_COUNT; ++isa) {
        if (const Kernel *kernel = ei::find_kernel(ei::Op::attention, c.k.format->id, isa)) {
            if (ei_capabilities() & ei::isa_bit(isa)) check(*kernel);
        }
    }
#ifdef EI_TEST_EVEX
    if (c.k.blocks() && (ei_capabilities() & ei::isa_bit(EI_ISA_AVX512VNNI))) check(ei::ei_kernel_attention_q8_0_evex);
#endif
}

std::vector<float> attend(const Kernel &kernel, const Case &c, Range tokens, int heads_at_once, int n_parts = 1) {
    const size_t d = static_cast<size_t>(c.head_dim) * sizeof(float), n_heads = static_cast<size_t>(c.n_heads()), head = c.k.head_bytes();
    const size_t cell = static_cast<size_t>(c.n_kv_heads) * head;
    std::vector<float> out(c.q.size(), -7.0f);
    const ei_attention_args args{reinterpret_cast<const char *>(c.q.data()), reinterpret_cast<const char *>(c.k.bytes.data()),
                                 reinterpret_cast<const char *>(c.v.bytes.data()), reinterpret_cast<const char *>(c.mask.data()),
                                 reinterpret_cast<char *>(out.data()), n_heads * d, d, cell, head, cell, head,
                                 static_cast<size_t>(c.n_kv) * sizeof(uint16_t), n_heads * d, d, c.n_kv, c.head_dim, c.n_group, 0.125f};
    Buffer scratch(ei_attention_scratch_bytes(c.n_kv, c.head_dim, tokens.n, heads_at_once, n_parts));
    for (int h = 0; h < c.n_kv_heads; ++h) {
        for (int g = 0; g < c.n_group; g += heads_at_once) {
            ei_attention_unit unit{h, tokens.first, tokens.n, g, std::min(heads_at_once, c.n_group - g), scratch.data(), 0, n_parts, 0};
            for (; unit.step < (n_parts > 1 ? EI_ATTENTION_STEPS : 1); ++unit.step) {
                for (unit.part = n_parts; unit.part-- > 0;) kernel.attention(args, unit);
            }
        }
    }
    return out;
}

bool same(float a, float b) { return (a != a && b != b) || ei::float_bits(a) == ei::float_bits(b); }

void check_same(const Case &c, const std::vector<float> &a, const std::vector<float> &b, Range tokens, const char *what, int32_t isa) {
    const int row = c.n_heads() * c.head_dim;
    for (int i = tokens.first * row; i < (tokens.first + tokens.n) * row; ++i) {
        CHECK(same(a[static_cast<size_t>(i)], b[static_cast<size_t>(i)]), "%s, %s: token %d of %d, %d cells, dim %d: %a and %a", what,
              ei_isa_name(isa), i / row, c.n_tokens, c.n_kv, c.head_dim, a[static_cast<size_t>(i)], b[static_cast<size_t>(i)]);
    }
}

// As the scores see it: keys of int8 are multiplied with int8, whose scale is that of 32.
std::vector<double> query(Case &c, int token, int head) {
    std::vector<double> q(static_cast<size_t>(c.head_dim));
    for (int d = 0; d < c.head_dim; ++d) q[static_cast<size_t>(d)] = c.q_at(token, head, d);
    if (!c.k.blocks()) return q;
    for (size_t begin = 0; begin < q.size(); begin += 32) {
        double largest = 0;
        for (size_t d = begin; d < begin + 32; ++d) largest = std::max(largest, std::fabs(q[d]));
        const float inverse = 127.0f / (static_cast<float>(largest) * 0.125f);
        for (size_t d = begin; d < begin + 32; ++d) q[d] = std::nearbyint(static_cast<float>(q[d]) * 0.125f * inverse) * largest / 127;
    }
    return q;
}

void check_against_double(Case &c, const std::vector<float> &out) {
    for (int t = 0; t < c.n_tokens; ++t) {
        for (int h = 0; h < c.n_heads(); ++h) {
            std::vector<double> s(static_cast<size_t>(c.n_kv), -HUGE_VAL);
            const std::vector<double> q = query(c, t, h);
            double max = -HUGE_VAL, sum = 0, v_max = 0;  // of all dimensions: one accumulator's offset serves them all
            for (int i = 0; i < c.n_kv; ++i) {
                if (c.mask_at(t, i) == 0xfc00) continue;
                double dot = 0;
                for (int d = 0; d < c.head_dim; ++d) {
                    dot += 0.125 * q[static_cast<size_t>(d)] * c.k.value(i, h / c.n_group, d);
                    v_max = std::max(v_max, std::fabs(c.v.value(i, h / c.n_group, d)));
                }
                s[static_cast<size_t>(i)] = dot;
                max = std::max(max, dot);
            }
            for (double &x : s) sum += x = std::exp(x - max);
            for (int d = 0; d < c.head_dim; ++d) {
                double want = 0;
                for (int i = 0; i < c.n_kv; ++i) {
                    const double v = c.v.value(i, h / c.n_group, d);
                    if (c.mask_at(t, i) == 0xfc00) continue;
                    want += s[static_cast<size_t>(i)] / sum * v;
                }
                if (max == -HUGE_VAL) want = 0;
                const double got = out[static_cast<size_t>((t * c.n_heads() + h) * c.head_dim + d)];
                CHECK(std::fabs(got - want) <= 2e-5 * (v_max + 1), "token %d head %d dim %d: %g, exactly %g", t, h, d, got, want);
            }
        }
    }
}

// The same cells in another order, with the mask moved along: nothing may change.
Case shuffled(Random &random, Case &c) {
    std::vector<int> to(static_cast<size_t>(c.n_kv));
    for (int i = 0; i < c.n_kv; ++i) to[static_cast<size_t>(i)] = i;
    for (int i = c.n_kv - 1; i > 0; --i) std::swap(to[static_cast<size_t>(i)], to[static_cast<size_t>(random.below(i + 1))]);
    Case moved = c;
    for (int i = 0; i < c.n_kv; ++i) {
        const int j = to[static_cast<size_t>(i)];
        for (int t = 0; t < c.n_tokens; ++t) moved.mask_at(t, j) = c.mask_at(t, i);
        for (int h = 0; h < c.n_kv_heads; ++h) {
            std::memcpy(moved.k.at(j, h), c.k.at(i, h), c.k.head_bytes());
            std::memcpy(moved.v.at(j, h), c.v.at(i, h), c.v.head_bytes());
        }
    }
    return moved;
}

// What cells that a token does not see hold must not matter, even when it is no number.
Case poisoned(Random &random, Case &c, int token) {
    Case other = c;
    for (int i = 0; i < c.n_kv; ++i) {
        if (c.mask_at(token, i) != 0xfc00) continue;
        for (int h = 0; h < c.n_kv_heads; ++h) {
            for (int d = 0; d < c.k.n_halves(); ++d) {
                const uint16_t strange = random.below(2) ? 0x7e00 : 0xfc00;
                other.k.set_half(i, h, d, strange), other.v.set_half(i, h, d, strange);
            }
        }
    }
    return other;
}

void check_ties(Random &random, Case &c);

void check_case(Random &random, Case c) {
    const Range all{0, c.n_tokens};
    const std::vector<float> want = attend(scalar(c), c, all, c.n_group);
    check_against_double(c, want);
    Case moved = shuffled(random, c);
    // Drawn here, so that machines of all instruction sets see the same cases.
    const Range one{random.below(c.n_tokens), 1};
    const Case poison = poisoned(random, c, one.first);
    for_kernels(c, [&](const Kernel &kernel) {
        check_same(c, attend(kernel, c, all, c.n_group), want, all, "against scalar", kernel.isa);
        check_same(c, attend(kernel, c, all, 1), want, all, "heads one by one", kernel.isa);
        check_same(c, attend(kernel, c, all, c.n_group, 2), want, all, "in two parts", kernel.isa);
        check_same(c, attend(kernel, moved, all, 1, 5), want, all, "cells moved, heads one by one, in five parts", kernel.isa);
        check_same(c, attend(kernel, moved, all, c.n_group), want, all, "cells moved", kernel.isa);
        check_same(c, attend(kernel, c, one, c.n_group), want, one, "a token alone", kernel.isa);
        check_same(c, attend(kernel, poison, all, c.n_group), want, one, "strange neighbours", kernel.isa);
    });
    check_ties(random, c);
}

// Ties and tiny values: weights of exactly one and values of few bits, where a careless sum would depend on its order.
void check_ties(Random &random, Case &c) {
    const Range all{0, c.n_tokens};
    std::fill(c.k.bytes.begin(), c.k.bytes.end(), uint8_t{0});
    std::fill(c.v.bytes.begin(), c.v.bytes.end(), uint8_t{1});
    c.v.set_halves([&] { return static_cast<uint16_t>((random.below(20) << 10) | (random.below(2) << 15) | (random.below(2) << 9)); });
    const Case plain = shuffled(random, c);
    const std::vector<float> want = attend(scalar(c), plain, all, c.n_group);
    for_kernels(c, [&](const Kernel &kernel) {
        check_same(c, attend(kernel, c, all, c.n_group), want, all, "equal weights", kernel.isa);
        check_same(c, attend(kernel, c, all, c.n_group, 3), want, all, "equal weights in parts", kernel.isa);
    });
}

// What no cache of ours holds but a damaged file may: the same answer on every ISA, NaN where a score or a weighed value is not finite, and
// numbers where a token sees nothing.
void check_strange(Random &random, Case c) {
    const Range all{0, c.n_tokens};
    for (int i = 0; i < c.n_kv; ++i) {
        if (random.below(20) == 0) c.k.set_half(i, random.below(c.n_kv_heads), 0, static_cast<uint16_t>(random.below(65536)));
        if (random.below(20) == 0) c.v.set_half(i, random.below(c.n_kv_heads), 0, static_cast<uint16_t>(random.below(65536)));
    }
    for (int i = 0; i < c.n_kv; ++i) c.mask_at(0, i) = 0xfc00;
    if (c.n_tokens > 1) {  // sees nothing but a cell whose value is infinite
        for (int i = 0; i < c.n_kv; ++i) c.mask_at(1, i) = i == 0 ? 0 : 0xfc00;
        for (int h = 0; h < c.k.n_halves(); ++h) c.k.set_half(0, 0, h, 0);
        c.v.set_half(0, 0, 0, 0x7c00);
    }
    if (c.n_tokens > 2) {
        const float strange[] = {HUGE_VALF, -HUGE_VALF, ei::bits_float(0x7fc00000), 1e-40f, 3e38f};
        for (int h = 0; h < c.n_heads(); ++h) c.q_at(2, h, random.below(c.head_dim)) = strange[random.below(5)];
    }
    const std::vector<float> want = attend(scalar(c), c, all, c.n_group);
    for (int i = 0; i < c.n_heads() * c.head_dim; ++i) {
        const float nothing = want[static_cast<size_t>(i)];
        CHECK(ei::float_bits(nothing) == 0, "a token that sees nothing: %a", nothing);
    }
    if (c.n_tokens > 1) {
        const float first = want[static_cast<size_t>(c.n_heads() * c.head_dim)];
        CHECK(first != first, "an infinite value gives %a", first);
    }
    for_kernels(c, [&](const Kernel &kernel) {
        check_same(c, attend(kernel, c, all, c.n_group), want, all, "strange cells", kernel.isa);
        check_same(c, attend(kernel, c, all, c.n_group, 2), want, all, "strange cells in parts", kernel.isa);
    });
}

}  // namespace

int main(int argc, char **argv) {
    const int n_rounds = argc > 1 ? std::atoi(argv[1]) : 4;
    Random random(argc > 2 ? static_cast<uint64_t>(std::atoll(argv[2])) : 1);
    for (int round = 0; round < n_rounds; ++round) {
        for (const int32_t format : {EI_FORMAT_F16, EI_FORMAT_Q8_0}) {
            const auto any = [&] {
                const int dim = format == EI_FORMAT_F16 ? 16 * (1 + random.below(8)) : 32 * (1 + random.below(4));
                return Size{1 + random.below(200), dim, 1 + random.below(7), 1 + random.below(2), 1 + random.below(9), 1 + random.below(4)};
            };
            check_case(random, make(random, format, {1, 64, 3, 1, 1, 1}));
            check_case(random, make(random, format, {64, 64, 3, 2, 5, 1}));
            check_case(random, make(random, format, {256, 128, 6, 1, 3, 2}));
            check_case(random, make(random, format, {300, format == EI_FORMAT_F16 ? 80 : 96, 2, 2, 7, 3}));
            check_case(random, make(random, format, {200, 256, 1, 1, 2, 2}));
            check_case(random, make(random, format, any()));
            check_strange(random, make(random, format, any()));
        }
    }
    return check::result();
}
