// Attention: every ISA against scalar bit for bit; scalar against double precision; and the same token alone, in company, with its cells
// shuffled, its heads split, always the same bits.
#include <algorithm>
#include <cmath>

#include "check.h"
#include "core/half.h"
#include "core/isa.h"
#include "random.h"

namespace {

struct Case {
    int n_kv, head_dim, n_group, n_kv_heads, n_tokens;
    std::vector<uint16_t> k, v, mask;
    std::vector<float> q;

    int n_heads() const { return n_group * n_kv_heads; }
    uint16_t &k_at(int cell, int head, int d) { return k[static_cast<size_t>((cell * n_kv_heads + head) * head_dim + d)]; }
    uint16_t &v_at(int cell, int head, int d) { return v[static_cast<size_t>((cell * n_kv_heads + head) * head_dim + d)]; }
    uint16_t &mask_at(int token, int cell) { return mask[static_cast<size_t>(token * n_kv + cell)]; }
    float &q_at(int token, int head, int d) { return q[static_cast<size_t>((token * n_heads() + head) * head_dim + d)]; }
};

Case make(Random &random, int n_kv, int head_dim, int n_group, int n_kv_heads, int n_tokens, int n_sequences) {
    Case c{n_kv, head_dim, n_group, n_kv_heads, n_tokens, {}, {}, {}, {}};
    c.k.resize(static_cast<size_t>(n_kv * n_kv_heads * head_dim));
    c.v.resize(c.k.size());
    c.mask.resize(static_cast<size_t>(n_tokens * n_kv));
    c.q.resize(static_cast<size_t>(n_tokens * c.n_heads() * head_dim));
    for (uint16_t &x : c.k) x = ei::float_to_half(random.unit() * 2);
    for (uint16_t &x : c.v) x = ei::float_to_half(random.unit() * (random.below(30) ? 1.0f : 20.0f));
    for (float &x : c.q) x = random.unit() * 3;
    // Cells belong to sequences at random; a token sees its sequence up to a cell of its own.
    std::vector<int> owner(static_cast<size_t>(n_kv));
    for (int &o : owner) o = random.below(n_sequences + 1);
    for (int t = 0; t < n_tokens; ++t) {
        const int end = 1 + random.below(n_kv);
        for (int i = 0; i < n_kv; ++i) c.mask_at(t, i) = i < end && owner[static_cast<size_t>(i)] == t % n_sequences ? 0 : 0xfc00;
    }
    return c;
}

struct Range {
    int first, n;
};

std::vector<float> attend(int32_t isa, const Case &c, Range tokens, int heads_at_once) {
    const size_t half = 2, d = static_cast<size_t>(c.head_dim), n_heads = static_cast<size_t>(c.n_heads());
    std::vector<float> out(c.q.size(), -7.0f);
    const ei_attention_args args{reinterpret_cast<const char *>(c.q.data()), reinterpret_cast<const char *>(c.k.data()),
                                 reinterpret_cast<const char *>(c.v.data()), reinterpret_cast<const char *>(c.mask.data()),
                                 reinterpret_cast<char *>(out.data()), n_heads * d * 4, d * 4, static_cast<size_t>(c.n_kv_heads) * d * half, d * half,
                                 static_cast<size_t>(c.n_kv_heads) * d * half, d * half, static_cast<size_t>(c.n_kv) * half, n_heads * d * 4, d * 4,
                                 c.n_kv, c.head_dim, c.n_group, 0.125f};
    Buffer scratch(ei_attention_scratch_bytes(c.n_kv, c.head_dim, tokens.n, heads_at_once, 1));
    for (int h = 0; h < c.n_kv_heads; ++h) {
        for (int g = 0; g < c.n_group; g += heads_at_once) {
            const ei_attention_unit unit{h, tokens.first, tokens.n, g, std::min(heads_at_once, c.n_group - g), scratch.data(), 0, 1, 0};
            ei_attention(isa, EI_FORMAT_F16, &args, &unit);
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

void check_against_double(Case &c, const std::vector<float> &out) {
    for (int t = 0; t < c.n_tokens; ++t) {
        for (int h = 0; h < c.n_heads(); ++h) {
            std::vector<double> s(static_cast<size_t>(c.n_kv), -HUGE_VAL);
            double max = -HUGE_VAL, sum = 0, v_max = 0;  // of all dimensions: one accumulator's offset serves them all
            for (int i = 0; i < c.n_kv; ++i) {
                if (c.mask_at(t, i) == 0xfc00) continue;
                double dot = 0;
                for (int d = 0; d < c.head_dim; ++d) {
                    dot += 0.125 * c.q_at(t, h, d) * ei::half_to_float(c.k_at(i, h / c.n_group, d));
                    v_max = std::max(v_max, std::fabs(double{ei::half_to_float(c.v_at(i, h / c.n_group, d))}));
                }
                s[static_cast<size_t>(i)] = dot;
                max = std::max(max, dot);
            }
            for (double &x : s) sum += x = std::exp(x - max);
            for (int d = 0; d < c.head_dim; ++d) {
                double want = 0;
                for (int i = 0; i < c.n_kv; ++i) {
                    const double v = ei::half_to_float(c.v_at(i, h / c.n_group, d));
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
            for (int d = 0; d < c.head_dim; ++d) moved.k_at(j, h, d) = c.k_at(i, h, d), moved.v_at(j, h, d) = c.v_at(i, h, d);
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
            for (int d = 0; d < c.head_dim; ++d) other.k_at(i, h, d) = other.v_at(i, h, d) = random.below(2) ? 0x7e00 : 0xfc00;
        }
    }
    return other;
}

void check_case(Random &random, Case c) {
    const Range all{0, c.n_tokens};
    const std::vector<float> want = attend(EI_ISA_SCALAR, c, all, c.n_group);
    check_against_double(c, want);
    Case moved = shuffled(random, c);
    // Drawn here, so that machines of all instruction sets see the same cases.
    const Range one{random.below(c.n_tokens), 1};
    const Case poison = poisoned(random, c, one.first);
    for (int32_t isa = 0; isa < EI_ISA_COUNT; ++isa) {
        if (!(ei_capabilities() & ei::isa_bit(isa))) continue;
        check_same(c, attend(isa, c, all, c.n_group), want, all, "against scalar", isa);
        check_same(c, attend(isa, c, all, 1), want, all, "heads one by one", isa);
        check_same(c, attend(isa, moved, all, c.n_group), want, all, "cells moved", isa);
        check_same(c, attend(isa, c, one, c.n_group), want, one, "a token alone", isa);
        check_same(c, attend(isa, poison, all, c.n_group), want, one, "strange neighbours", isa);
    }
    // Ties and tiny values: weights of exactly one and values of few bits, where a careless sum would depend on its order.
    for (uint16_t &x : c.k) x = 0;
    for (uint16_t &x : c.v) x = static_cast<uint16_t>((random.below(20) << 10) | (random.below(2) << 15) | (random.below(2) << 9));
    Case plain = shuffled(random, c);
    for (int32_t isa = 0; isa < EI_ISA_COUNT; ++isa) {
        if (!(ei_capabilities() & ei::isa_bit(isa))) continue;
        check_same(c, attend(isa, c, all, c.n_group), attend(EI_ISA_SCALAR, plain, all, c.n_group), all, "equal weights", isa);
    }
}

}  // namespace

int main(int argc, char **argv) {
    const int n_rounds = argc > 1 ? std::atoi(argv[1]) : 4;
    Random random(argc > 2 ? static_cast<uint64_t>(std::atoll(argv[2])) : 1);
    for (int round = 0; round < n_rounds; ++round) {
        check_case(random, make(random, 1, 64, 3, 1, 1, 1));
        check_case(random, make(random, 64, 64, 3, 2, 5, 1));
        check_case(random, make(random, 256, 128, 6, 1, 3, 2));
        check_case(random, make(random, 300, 80, 2, 2, 7, 3));
        check_case(random, make(random, 200, 256, 1, 1, 2, 2));
        check_case(random, make(random, 1 + random.below(200), 16 * (1 + random.below(8)), 1 + random.below(7), 1 + random.below(2), 1 + random.below(9), 1 + random.below(4)));
    }
    return check::result();
}
