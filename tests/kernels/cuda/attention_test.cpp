#include "kernels/cuda/attention.h"
#include "gpu_fixture.h"

#include <algorithm>
#include <numeric>

using namespace spartan;

namespace {

struct Chunk {
    int32_t before = 0, rows = 1;  // tokens whose keys are stored already, and those of this step
    int32_t tokens() const { return before + rows; }
};

struct Shape {
    KvLayout layout;
    int64_t window = 0;
    float scale() const { return 1 / std::sqrt(float(layout.head_dim)); }
};

// A batch with the pages of all its sequences scattered over the pool, in which everything else is NaN, like all that
// the tables do not need: what is read but should not be shows.
template <class T>
struct Batch {
    Shape shape;
    std::vector<Chunk> chunks;
    std::vector<T> q, k, v;                    // rows of the step
    std::vector<std::vector<T>> keys, values;  // [sequence]: of all tokens
    std::vector<T> pool;
    std::vector<CudaRow> rows;
    std::vector<CudaSequence> sequences;
    std::vector<int32_t> block_tables;  // [layer][table][max_blocks]
    int64_t max_blocks = 1, num_rows = 0;
    static constexpr int kLayers = 2, kLayer = 1, kSpareRows = 3;

    Batch(const Shape& s, std::vector<Chunk> c, uint32_t seed = 1) : shape(s), chunks(std::move(c)) {
        const KvLayout& l = shape.layout;
        std::mt19937 random(seed);
        const auto blocks_of = [&](const Chunk& chunk) {
            return (chunk.tokens() + l.block_tokens - 1) / l.block_tokens;
        };
        int64_t num_pages = 1;
        for (const Chunk& chunk : chunks) {
            max_blocks = std::max(max_blocks, blocks_of(chunk) + 1);
            num_pages += blocks_of(chunk);
        }
        std::vector<int32_t> pages(static_cast<size_t>(num_pages));
        std::iota(pages.begin(), pages.end(), 0);
        std::shuffle(pages.begin(), pages.end(), random);
        pool.assign(size_t(num_pages * l.page_elements()), from_float<T>(NAN));
        const size_t tables = chunks.size() + 1;  // not all in use
        block_tables.assign(kLayers * tables * size_t(max_blocks), -1);
        for (size_t i = 0; i < chunks.size(); ++i) {
            const auto table = int32_t(chunks.size() - i);
            sequences.push_back({int32_t(num_rows), chunks[i].rows, chunks[i].before, table});
            for (int64_t b = 0; b < blocks_of(chunks[i]); ++b) {
                block_tables[(kLayer * tables + size_t(table)) * size_t(max_blocks) + size_t(b)] = pages.back();
                pages.pop_back();
            }
            const auto values_of = [&](int64_t dim) {
                return random_values<T>(size_t(chunks[i].tokens() * dim), uint32_t(random()));
            };
            keys.push_back(values_of(l.kv_heads * l.head_dim));
            values.push_back(values_of(l.kv_heads * l.head_dim));
            for (int32_t t = 0; t < chunks[i].before; ++t) store(int32_t(i), t);
            const auto append = [&](std::vector<T>& to, const std::vector<T>& from) {
                to.insert(to.end(), from.begin() + chunks[i].before * l.kv_heads * l.head_dim, from.end());
            };
            append(k, keys[i]);
            append(v, values[i]);
            const auto own_q = random_values<T>(size_t(chunks[i].rows * l.num_heads * l.head_dim), uint32_t(random()));
            q.insert(q.end(), own_q.begin(), own_q.end());
            for (int32_t r = 0; r < chunks[i].rows; ++r) rows.push_back({chunks[i].before + r, int32_t(i), -1});
            num_rows += chunks[i].rows;
        }
        rows.resize(rows.size() + kSpareRows);
        sequences.resize(sequences.size() + 2);
        const T nan = from_float<T>(NAN);
        q.resize(q.size() + size_t(kSpareRows * l.num_heads * l.head_dim), nan);
        k.resize(k.size() + size_t(kSpareRows * l.kv_heads * l.head_dim), nan);
        v.resize(v.size() + size_t(kSpareRows * l.kv_heads * l.head_dim), nan);
    }

    // Where token t of a sequence has its first feature of kv head 0's key.
    size_t slot(int32_t sequence, int32_t t) const {
        const KvLayout& l = shape.layout;
        const size_t table = kLayer * (chunks.size() + 1) + size_t(sequences[size_t(sequence)].table);
        const int64_t page = block_tables[table * size_t(max_blocks) + size_t(t / l.block_tokens)];
        return size_t(page * l.page_elements() + t % l.block_tokens * l.head_dim);
    }
    void store(int32_t sequence, int32_t t) {
        const KvLayout& l = shape.layout;
        for (int64_t h = 0; h < l.kv_heads; ++h)
            for (int64_t d = 0; d < l.head_dim; ++d) {
                const size_t from = size_t((t * l.kv_heads + h) * l.head_dim + d);
                const size_t to = slot(sequence, t) + size_t(h * l.block_tokens * l.head_dim + d);
                pool[to] = keys[size_t(sequence)][from];
                pool[to + size_t(l.page_elements() / 2)] = values[size_t(sequence)][from];
            }
    }

    AttentionBucket bucket(bool row_by_row = false) const {
        int64_t context = 0, total = 0;
        for (const Chunk& c : chunks) {
            context = std::max<int64_t>(context, c.tokens());
            total += row_by_row ? int64_t(c.rows) * c.tokens() : c.tokens();
        }
        const int64_t n = num_rows + kSpareRows;
        return attention_bucket(n, row_by_row ? n : int64_t(sequences.size()), context + 100, total + 1000);
    }

    // [row, head, feature] of the rows of one sequence.
    std::vector<double> oracle(size_t s) const {
        const KvLayout& l = shape.layout;
        const int64_t group = l.num_heads / l.kv_heads;
        std::vector<double> out;
        std::vector<double> weights;
        for (int64_t r = 0; r < chunks[s].rows; ++r)
            for (int64_t h = 0; h < l.num_heads; ++h) {
                const int64_t p = chunks[s].before + r, kv = h / group;
                const int64_t first = shape.window > 0 ? std::max<int64_t>(p + 1 - shape.window, 0) : 0;
                const T* query = q.data() + ((sequences[s].row_begin + r) * l.num_heads + h) * l.head_dim;
                weights.clear();
                for (int64_t j = first; j <= p; ++j) {
                    const T* key = keys[s].data() + (j * l.kv_heads + kv) * l.head_dim;
                    double dot = 0;
                    for (int64_t d = 0; d < l.head_dim; ++d)
                        dot += double(to_float(query[d])) * double(to_float(key[d]));
                    weights.push_back(dot * double(shape.scale()));
                }
                const double highest = *std::max_element(weights.begin(), weights.end());
                double total = 0;
                for (double& w : weights) total += w = std::exp(w - highest);
                std::vector<double> sums(static_cast<size_t>(l.head_dim));
                for (int64_t j = first; j <= p; ++j) {
                    const T* value = values[s].data() + (j * l.kv_heads + kv) * l.head_dim;
                    for (int64_t d = 0; d < l.head_dim; ++d)
                        sums[size_t(d)] += weights[size_t(j - first)] / total * double(to_float(value[d]));
                }
                out.insert(out.end(), sums.begin(), sums.end());
            }
        return out;
    }
};

// A batch's arrays on the device.
template <class T>
struct OnDevice {
    const Batch<T>& batch;
    AttentionBucket bucket;
    const OnDevice* shared;
    AttentionPlan plan;
    DeviceArray<T> q, k, v, pool, out;
    DeviceArray<CudaRow> rows;
    DeviceArray<CudaSequence> sequences;
    DeviceArray<int32_t> block_tables;
    DeviceArray<CudaAttentionItem> decode, prefill;
    DeviceArray<int32_t> counts;
    DeviceArray<std::byte> workspace;

    // `shared`: another's workspace, of a bucket that is at least as large.
    explicit OnDevice(const Batch<T>& b, bool row_by_row = false, const OnDevice* shared_workspace = nullptr)
        : batch(b),
          bucket(b.bucket(row_by_row)),
          shared(shared_workspace),
          plan(make_plan(b, row_by_row)),
          q(b.q),
          k(b.k),
          v(b.v),
          pool(b.pool),
          out(b.q.size()),
          rows(b.rows),
          sequences(b.sequences),
          block_tables(b.block_tables),
          decode(padded(plan.decode, bucket.decode_items)),
          prefill(padded(plan.prefill, bucket.prefill_items)),
          counts(std::vector<int32_t>{int32_t(plan.decode.size()), int32_t(plan.prefill.size())}),
          workspace(size_t(attention_workspace_bytes<T>(b.shape.layout, bucket)) + 16) {
        CHECK_CUDA(cudaMemset(workspace.data(), 0, workspace.size()));
        CHECK_CUDA(cudaDeviceSynchronize());  // not in order with a device's own stream
    }
    static AttentionPlan make_plan(const Batch<T>& b, bool row_by_row) {
        AttentionPlan p;
        plan_attention(std::span(b.sequences).first(b.chunks.size()), p, row_by_row);
        return p;
    }
    static std::vector<CudaAttentionItem> padded(std::vector<CudaAttentionItem> items, int64_t most) {
        items.resize(size_t(most) + 1, {-1, -1, -1, -1});
        return items;
    }

    CudaBatchTables tables() const {
        const size_t layer = Batch<T>::kLayer * (batch.chunks.size() + 1) * size_t(batch.max_blocks);
        return {.rows = rows.data(),
                .tiles = nullptr,
                .sequences = sequences.data(),
                .block_tables = block_tables.data() + layer,
                .max_blocks = batch.max_blocks,
                .decode = decode.data(),
                .prefill = prefill.data(),
                .item_counts = counts.data()};
    }
    int64_t num_rows() const { return int64_t(batch.rows.size()); }
    AttentionWorkspace workspace_of_all() const {
        return shared ? shared->workspace_of_all() : AttentionWorkspace{workspace.data(), bucket};
    }

    void store(CudaDevice& device, const QkvSteps& steps = {}, const CudaTile* tiles = nullptr) const {
        const KvLayout& l = batch.shape.layout;
        CudaBatchTables t = tables();
        t.tiles = tiles;
        store_qkv<T>(device, pool.data(), l, {q.data(), {num_rows(), l.num_heads * l.head_dim}},
                     {k.data(), {num_rows(), l.kv_heads * l.head_dim}},
                     {v.data(), {num_rows(), l.kv_heads * l.head_dim}}, steps, t);
    }
    // `out` is NaN again, as before the first call.
    void clear_out() const {
        CHECK_CUDA(cudaMemset(out.data(), 0xff, out.size() * sizeof(T)));
        CHECK_CUDA(cudaDeviceSynchronize());
    }
    std::vector<T> attend(CudaDevice& device) const {
        const KvLayout& l = batch.shape.layout;
        const std::array<int64_t, 2> dims{num_rows(), l.num_heads * l.head_dim};
        attention<T>(device, {out.data(), dims}, {q.data(), dims}, pool.data(), l, batch.shape.scale(),
                     batch.shape.window, tables(), bucket, workspace_of_all());
        return out.read();
    }
};

template <class T>
std::vector<T> rows_of(const std::vector<T>& out, int64_t dim, int64_t begin, int64_t count) {
    return {out.begin() + begin * dim, out.begin() + (begin + count) * dim};
}

template <class T>
bool same_bits(const std::vector<T>& a, const std::vector<T>& b) {
    return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0;
}

// Sums of fp32 over thousands of keys; weights rounded to T, then one rounding to T.
template <class T>
constexpr double kAttentionTolerance = std::is_same_v<T, float>  ? 2e-5
                                       : std::is_same_v<T, bf16> ? 6e-3
                                                                 : 8e-4;

// Which rows of two runs are wrong: how many, and the first of them with its first wrong head in words.
template <class T>
struct WrongRows {
    const Batch<T>& batch;
    const std::vector<T>&first, &second;
    int64_t wrong = 0, rows = 0;
    std::string about;

    static bool is_right(const std::vector<T>& one, const std::vector<T>& other, const std::vector<double>& want) {
        return relative_error(one, want) < kAttentionTolerance<T> && same_bits(one, other);
    }
    void check(size_t s, int64_t r, const std::vector<double>& want) {
        const int64_t dim = int64_t(want.size()), of_batch = batch.sequences[s].row_begin + r;
        const auto one = rows_of(first, dim, of_batch, 1), other = rows_of(second, dim, of_batch, 1);
        ++rows;
        if (is_right(one, other, want) || wrong++ > 0) return;
        const KvLayout& l = batch.shape.layout;
        about = text_of("head_dim ", l.head_dim, " heads ", l.num_heads, "/", l.kv_heads, " window ",
                        batch.shape.window, " sequence ", s, " row ", r, " after ", batch.chunks[s].before, ": error ",
                        relative_error(one, want), first_wrong_head(one, other, want));
    }
    std::string first_wrong_head(const std::vector<T>& one, const std::vector<T>& other,
                                 const std::vector<double>& want) const {
        const auto nans = [](const std::vector<T>& of) {
            return std::count_if(of.begin(), of.end(), [](T v) { return std::isnan(to_float(v)); });
        };
        const int64_t dim = batch.shape.layout.head_dim;
        for (int64_t h = 0; h < batch.shape.layout.num_heads; ++h) {
            const auto a = rows_of(one, dim, h, 1), b = rows_of(other, dim, h, 1);
            const auto of_head = rows_of(want, dim, h, 1);
            if (is_right(a, b, of_head)) continue;
            return text_of("; head ", h, ": errors ", relative_error(a, of_head), " and ", relative_error(b, of_head),
                           " of two runs, ", nans(a), " and ", nans(b), " NaN");
        }
        return {};
    }
    std::string text() const { return wrong == 0 ? "" : text_of(wrong, " of ", rows, " rows, the first: ", about); }
};

// Every row against the oracle, twice, so that the workspace serves again; the second time with overlapping launches.
template <class T>
void compare_with_oracle(const Shape& shape, const std::vector<Chunk>& chunks, bool row_by_row = false) {
    const Batch<T> batch(shape, chunks);
    const OnDevice<T> on_device(batch, row_by_row);
    QVERIFY(int64_t(on_device.plan.decode.size()) <= on_device.bucket.decode_items);
    QVERIFY(int64_t(on_device.plan.prefill.size()) <= on_device.bucket.prefill_items);
    CudaDevice device;
    on_device.store(device);
    const auto first = on_device.attend(device);
    on_device.clear_out();
    device.set_overlap_launches(true);
    on_device.store(device);
    const auto got = on_device.attend(device);
    const int64_t dim = shape.layout.num_heads * shape.layout.head_dim;
    WrongRows<T> wrong{batch, first, got, 0, 0, {}};
    for (size_t s = 0; s < chunks.size(); ++s) {
        const auto want = batch.oracle(s);
        for (int64_t r = 0; r < chunks[s].rows; ++r) wrong.check(s, r, rows_of(want, dim, r, 1));
    }
    VERIFY_RIGHT(wrong.text());
    const auto spare = rows_of(got, dim, batch.num_rows, Batch<T>::kSpareRows);
    for (const T value : spare) QVERIFY(std::isnan(to_float(value)));
}

void compare_16_bit(const Shape& shape, const std::vector<Chunk>& chunks, bool row_by_row = false) {
    compare_with_oracle<bf16>(shape, chunks, row_by_row);
    compare_with_oracle<f16>(shape, chunks, row_by_row);
}

// Few: rows of one piece and of several, queries of one tile and of two, after keys or not.
std::vector<Chunk> decode_chunks() {
    return cases<std::vector<Chunk>>(
        {{0, 1}, {1, 1}, {14, 1}, {15, 1}, {16, 1}, {254, 1}, {255, 1}, {256, 1}, {511, 1}, {2999, 1}},
        {{0, 1}, {15, 1}, {255, 1}, {400, 1}});
}
std::vector<Chunk> mixed_chunks() {
    return cases<std::vector<Chunk>>({{299, 1}, {0, 2}, {0, 150}, {37, 33}, {700, 1}, {300, 129}, {0, 1}, {1000, 16}},
                                     {{40, 1}, {0, 2}, {0, 129}, {17, 15}, {400, 1}, {0, 1}});
}
std::vector<Chunk> window_chunks() {
    return cases<std::vector<Chunk>>({{0, 1}, {20, 1}, {255, 1}, {256, 1}, {700, 1}, {0, 70}, {290, 40}},
                                     {{20, 1}, {400, 1}, {90, 40}});
}

// MHA, GQA 3:1, 8:1 and more heads than one product takes; every head_dim with a fast path and some without.
const std::vector<KvLayout> kLayouts{
    {4, 4, 128, 16}, {9, 3, 64, 16},  {8, 1, 128, 32}, {8, 2, 64, 32}, {3, 1, 96, 16}, {2, 2, 32, 16},
    {2, 1, 256, 16}, {11, 1, 64, 16}, {6, 1, 80, 32},  {2, 2, 16, 16}, {3, 3, 10, 8},
};

QByteArray name_of(const KvLayout& l) {
    return QStringLiteral("heads %1/%2 head_dim %3 block %4")
        .arg(l.num_heads)
        .arg(l.kv_heads)
        .arg(l.head_dim)
        .arg(l.block_tokens)
        .toUtf8();
}

}  // namespace

class CudaAttentionTest : public QObject {
    Q_OBJECT

private slots:
    void decode_data() { layouts(); }
    void decode() {
        SKIP_WITHOUT_GPU();
        const KvLayout l = layout();
        compare_16_bit({l}, decode_chunks());
        compare_with_oracle<float>({l}, decode_chunks());
    }

    // More pieces of work than blocks take without asking, of rows of many lengths.
    void decodeOfMany() {
        SKIP_WITHOUT_GPU();
        std::vector<Chunk> chunks;
        for (int32_t i = 0; i < 48; ++i) chunks.push_back({i * 61 % cases(1500, 400), 1});
        for (const KvLayout& l :
             {KvLayout{4, 4, 128, 16}, KvLayout{16, 2, 96, 16}, KvLayout{16, 8, 64, 16}, KvLayout{4, 4, 256, 16}})
            compare_16_bit({l}, chunks);
        compare_16_bit({{4, 4, 128, 16}, 300}, chunks);
    }

    // More tiles of rows than blocks take at a time, of sequences of many lengths: one block goes from long tiles to
    // short ones, and from one head and one sequence to another.
    void prefillOfMany() {
        SKIP_WITHOUT_GPU();
        const std::vector<Chunk> chunks{{0, 400}, {100, 260}, {0, 129}, {700, 1}, {511, 2}, {64, 300}};
        compare_16_bit({{16, 4, 128, 16}}, chunks);
        compare_with_oracle<bf16>({{16, 4, 128, 16}, 200}, chunks);
        compare_with_oracle<bf16>({{12, 12, 64, 32}}, chunks);
    }

    // Steps of few pieces and of many take turns with one workspace.
    void oneWorkspace() {
        SKIP_WITHOUT_GPU();
        CudaDevice device;
        const Shape shape{{4, 4, 128, 16}};
        std::vector<Chunk> chunks;
        for (int32_t i = 0; i < 24; ++i) chunks.push_back({cases(500, 300) + i * cases(97, 5), 1});
        const Batch<bf16> many(shape, chunks), few(shape, {{900, 1}});
        const OnDevice<bf16> large(many), alone(few);
        const OnDevice<bf16> small(few, false, &large);
        large.store(device);
        small.store(device);
        alone.store(device);
        const std::vector<bf16> one = alone.attend(device), all = large.attend(device);
        for (int turn = 0; turn < 3; ++turn) {
            QVERIFY(same_bits(one, small.attend(device)));
            QVERIFY(same_bits(all, large.attend(device)));
        }
    }

    void mixed_data() { layouts(); }
    void mixed() {
        SKIP_WITHOUT_GPU();
        const KvLayout l = layout();
        compare_16_bit({l}, mixed_chunks());
        if (l.num_heads <= 4) compare_with_oracle<float>({l}, mixed_chunks());
    }

    void windows_data() { layouts(); }
    void windows() {
        SKIP_WITHOUT_GPU();
        const KvLayout l = layout();
        for (const int64_t window : cases<std::vector<int64_t>>({1, 17, 256, 300, 4096}, {17, 300})) {
            compare_16_bit({l, window}, window_chunks());
            compare_with_oracle<float>({l, window}, {{20, 1}, {700, 1}, {290, 4}});
        }
    }

    void rowByRow() {
        SKIP_WITHOUT_GPU();
        compare_16_bit({{4, 2, 64, 16}}, {{0, 40}, {250, 20}, {3, 1}}, true);
    }

    void nothingToDo() {
        SKIP_WITHOUT_GPU();
        compare_16_bit({{4, 2, 64, 16}}, {});
        compare_with_oracle<float>({{4, 2, 64, 16}}, {});
    }

    // A row's bits alone, in a batch, in one chunk or several.
    void bitsOfARow() {
        SKIP_WITHOUT_GPU();
        CudaDevice device;
        for (const KvLayout& l : {KvLayout{8, 2, 128, 16}, KvLayout{4, 4, 64, 16}, KvLayout{3, 1, 96, 32}}) {
            const int64_t dim = l.num_heads * l.head_dim;
            const int32_t last = cases(700, 266), part = cases(300, 114);  // the row compared; where a chunk begins
            for (const int64_t window : cases<std::vector<int64_t>>({0, 100}, {0})) {
                const Shape shape{l, window};
                // The same tokens at every step: only which of them are rows, and what else is there, differs.
                const auto run = [&](const std::vector<Chunk>& chunks, bool row_by_row) {
                    Batch<bf16> batch(shape, chunks, 3);
                    const auto common_k = random_values<bf16>(size_t(2000 * l.kv_heads * l.head_dim), 4);
                    const auto common_q = random_values<bf16>(size_t(2000 * dim), 5);
                    const int64_t kv = l.kv_heads * l.head_dim, begin = batch.sequences[0].row_begin;
                    for (int32_t t = 0; t < chunks[0].tokens(); ++t) {
                        std::copy_n(common_k.begin() + t * kv, kv, batch.keys[0].begin() + t * kv);
                        std::copy_n(common_k.rbegin() + t * kv, kv, batch.values[0].begin() + t * kv);
                        batch.store(0, t);
                        const int64_t row = t - chunks[0].before;
                        if (row < 0) continue;
                        std::copy_n(common_q.begin() + t * dim, dim, batch.q.begin() + (begin + row) * dim);
                        std::copy_n(batch.keys[0].begin() + t * kv, kv, batch.k.begin() + (begin + row) * kv);
                        std::copy_n(batch.values[0].begin() + t * kv, kv, batch.v.begin() + (begin + row) * kv);
                    }
                    const OnDevice<bf16> on_device(batch, row_by_row);
                    on_device.store(device);
                    return rows_of(on_device.attend(device), dim, begin, chunks[0].rows);
                };
                const auto decoded = run({{last, 1}}, false);
                QVERIFY(same_bits(decoded, run({{last, 1}, {90, 1}, {0, 200}, {1000, 1}}, false)));
                // Enough rows for the kernel of many, with shares of every number of stages.
                std::vector<Chunk> many(cases<size_t>(68, 34));
                for (size_t i = 1; i < many.size(); ++i) many[i].before = int32_t(i * 7 % 50);
                for (const int32_t before : cases<std::vector<int32_t>>({last, 0, 63, 100, 254, 271, 382}, {last})) {
                    many[0].before = before;
                    QVERIFY(same_bits(run({{before, 1}}, false), run(many, false)));
                }
                const auto whole = run({{0, last + 1}}, true);
                QVERIFY(same_bits(decoded, rows_of(whole, dim, last, 1)));
                const auto prefilled = run({{0, last + 1}}, false);
                const int32_t rest = last + 1 - part;
                QVERIFY(same_bits(rows_of(prefilled, dim, part, rest), run({{part, rest}, {40, 1}, {5, 64}}, false)));
                QVERIFY(same_bits(rows_of(prefilled, dim, part + 33, 2), run({{part + 33, 2}}, false)));
            }
        }
    }

    void storeQkv_data() {
        QTest::addColumn<int>("head_dim");
        QTest::addColumn<int>("rotated");
        QTest::addColumn<bool>("adapters");
        QTest::addColumn<bool>("norms");
        for (const auto& [d, n] : {std::pair{128, 128},
                                   {64, 64},
                                   {80, 32},
                                   {96, 48},
                                   {16, 16},
                                   {256, 256},
                                   {10, 10},
                                   {64, 0},
                                   {128, 48},
                                   {32, 32},
                                   {64, 24}})
            for (const bool adapters : {false, true})
                for (const bool norms : {false, true})
                    QTest::addRow("head_dim %d rotated %d adapters %d norms %d", d, n, adapters, norms)
                        << d << n << adapters << norms;
    }
    void storeQkv() {
        SKIP_WITHOUT_GPU();
        for (const bool overlapping : {false, true}) {
            check_store<float>(overlapping);
            check_store<bf16>(overlapping);
            check_store<f16>(overlapping);
        }
    }

    // Plans stay within their bucket and cover every row's keys once.
    void plans() {
        std::mt19937 random(1);
        for (int round = 0; round < 200; ++round) {
            std::vector<CudaSequence> sequences;
            int64_t rows = 0, context = 0, total = 0;
            for (auto i = random() % 20; i > 0; --i) {
                const auto count = int32_t(random() % 3 ? 1 : random() % 600);
                const auto before = int32_t(random() % 2000);
                sequences.push_back({int32_t(rows), count, before, 0});
                rows += count;
                context = std::max<int64_t>(context, before + count);
                total += before + count;
            }
            const auto bucket = attention_bucket(rows, int64_t(sequences.size()), context, total);
            AttentionPlan plan;
            plan_attention(sequences, plan);
            QVERIFY(int64_t(plan.decode.size()) <= bucket.decode_items);
            QVERIFY(int64_t(plan.prefill.size()) <= bucket.prefill_items);
            std::vector<int> keys(size_t(rows), 0), uses(plan.decode.size(), 0);
            for (const auto& item : plan.decode) {
                const CudaSequence& s = sequences[size_t(item.sequence)];
                QVERIFY(s.rows == 1 && item.row == s.row_begin && item.first % kSplitKeys == 0);
                QVERIFY(item.position == s.first_position && item.old_keys == s.first_position &&
                        item.table == s.table);
                const bool last = item.first / kSplitKeys == decode_pieces(item.position + 1) - 1;
                const int count = last ? item.position + 1 - item.first : kSplitKeys;
                QVERIFY(count > 0 && count <= kMostSplitKeys);
                keys[size_t(item.row)] += count;
                ++uses[size_t(item.partial)];
            }
            for (const int n : uses) QCOMPARE(n, 1);
            for (const auto& item : plan.prefill) {
                const CudaSequence& s = sequences[size_t(item.sequence)];
                for (int32_t r = item.row; r < std::min(item.row + kQueryTile, s.row_begin + s.rows); ++r)
                    keys[size_t(r)] += s.first_position + r - s.row_begin + 1;
            }
            for (const CudaSequence& s : sequences)
                for (int32_t r = 0; r < s.rows; ++r) QCOMPARE(keys[size_t(s.row_begin + r)], s.first_position + r + 1);
        }
    }

private:
    static void layouts() {
        QTest::addColumn<int>("layout");
        for (size_t i = 0; i < kLayouts.size(); ++i) QTest::newRow(name_of(kLayouts[i]).constData()) << int(i);
    }
    static KvLayout layout() {
        QFETCH(int, layout);
        return kLayouts[size_t(layout)];
    }

    template <class T>
    static void check_store(bool overlapping) {
        QFETCH(int, head_dim);
        QFETCH(int, rotated);
        QFETCH(bool, adapters);
        QFETCH(bool, norms);
        const KvLayout l{6, 3, head_dim, 16};
        Batch<T> batch({l}, {{0, 3}, {cases(5000, 50), 1}, {31, 20}, {7, 1}});
        const int64_t q_dim = l.num_heads * head_dim, kv_dim = l.kv_heads * head_dim, half = rotated / 2;
        const auto floats = [](int64_t n, uint32_t seed) { return random_values<float>(size_t(n), seed); };
        const std::vector<float> gain_q = floats(q_dim, 11), gain_v = floats(kv_dim, 12), bias_k = floats(kv_dim, 13);
        const std::vector<float> base_q = floats(q_dim, 14), base_k = floats(kv_dim, 15);
        const std::vector<float> norm_q = floats(head_dim, 16), norm_k = floats(head_dim, 17);
        std::vector<float> inv_freq;
        for (int64_t i = 0; i < std::max<int64_t>(half, 1); ++i)
            inv_freq.push_back(std::pow(10000.f, -float(i) / float(std::max<int64_t>(half, 1))));
        const DeviceArray<float> d_gain_q(gain_q), d_gain_v(gain_v), d_bias_k(bias_k), d_base_q(base_q),
            d_base_k(base_k);
        const DeviceArray<float> d_norm_q(norm_q), d_norm_k(norm_k), d_inv_freq(inv_freq);

        // Parts 8, 9, 10 of tile 1; tile 0 is the base's, the last sequence has no tile at all.
        std::vector<CudaPart> parts(11);
        parts[8].gain = d_gain_q.data();
        parts[9].bias = d_bias_k.data();
        parts[10].gain = d_gain_v.data();
        const DeviceArray<CudaPart> d_parts(parts);
        const DeviceArray<CudaTile> tiles(std::vector<CudaTile>{{nullptr, 0, 3}, {d_parts.data(), 3, 21}});
        for (CudaRow& row : batch.rows) row.tile = row.sequence == 0 ? 0 : row.sequence < 3 ? 1 : -1;
        const OnDevice<T> on_device(batch);

        constexpr float kEps = 1e-5f, kRopeScale = 1.25f;
        QkvSteps steps;
        if (adapters)
            steps = {.part_q = 8, .part_k = 9, .part_v = 10, .bias_q = d_base_q.data(), .bias_k = d_base_k.data()};
        if (norms) {
            steps.norm_q = d_norm_q.data();
            steps.norm_k = d_norm_k.data();
            steps.norm_eps = kEps;
        }
        if (rotated > 0) {
            steps.inv_freq = d_inv_freq.data();
            steps.rotated = rotated;
            steps.rope_scale = kRopeScale;
        }
        CudaDevice device;
        device.set_overlap_launches(overlapping);
        on_device.store(device, steps, tiles.data());
        const auto q = on_device.q.read();
        auto pool = on_device.pool.read();

        const auto expect = [&](const T* x, const float* gain, const float* bias, const float* norm, bool rotates,
                                int32_t position) {  // of one head
            std::vector<double> y;
            double squares = 0;
            for (int64_t d = 0; d < head_dim; ++d) {
                y.push_back(double(to_float(x[d])) * (gain ? double(gain[d]) : 1) + (bias ? double(bias[d]) : 0));
                squares += y.back() * y.back();
            }
            if (norm)
                for (int64_t d = 0; d < head_dim; ++d)
                    y[size_t(d)] *= double(norm[d]) / std::sqrt(squares / double(head_dim) + double(kEps));
            for (int64_t i = 0; rotates && i < half; ++i) {
                const double angle = double(float(position) * inv_freq[size_t(i)]);
                const double a = y[size_t(i)], b = y[size_t(i + half)], s = double(kRopeScale);
                y[size_t(i)] = s * (a * std::cos(angle) - b * std::sin(angle));
                y[size_t(i + half)] = s * (b * std::cos(angle) + a * std::sin(angle));
            }
            return y;
        };
        const auto near = [&](const T* got, const std::vector<double>& want) {
            return relative_error(std::vector<T>(got, got + head_dim), want) < kTolerance<T>;
        };
        for (int64_t row = 0; row < batch.num_rows; ++row) {
            const CudaRow at = batch.rows[size_t(row)];
            const bool own = adapters && at.tile == 1;
            for (int64_t h = 0; h < l.num_heads; ++h) {
                const int64_t d = h * head_dim;
                QVERIFY(near(q.data() + row * q_dim + d,
                             expect(batch.q.data() + row * q_dim + d, own ? gain_q.data() + d : nullptr,
                                    adapters ? base_q.data() + d : nullptr, norms ? norm_q.data() : nullptr, true,
                                    at.position)));
            }
            for (int64_t h = 0; h < l.kv_heads; ++h) {
                const int64_t d = h * head_dim;
                T* key = pool.data() + batch.slot(at.sequence, at.position) + h * l.block_tokens * head_dim;
                T* value = key + l.page_elements() / 2;
                QVERIFY(near(key, expect(batch.k.data() + row * kv_dim + d, nullptr,
                                         own        ? bias_k.data() + d
                                         : adapters ? base_k.data() + d
                                                    : nullptr,
                                         norms ? norm_k.data() : nullptr, true, at.position)));
                QVERIFY(near(value, expect(batch.v.data() + row * kv_dim + d, own ? gain_v.data() + d : nullptr,
                                           nullptr, nullptr, false, at.position)));
                for (int64_t i = 0; i < head_dim; ++i) key[i] = value[i] = from_float<T>(NAN);
            }
        }
        // Nothing else was written.
        for (int64_t row = 0; row < batch.num_rows; ++row) {
            const CudaRow at = batch.rows[size_t(row)];
            for (int64_t h = 0; h < 2 * l.kv_heads; ++h)
                for (int64_t i = 0; i < head_dim; ++i)
                    batch.pool[batch.slot(at.sequence, at.position) + size_t(h * l.block_tokens * head_dim + i)] =
                        from_float<T>(NAN);
        }
        QVERIFY(same_bits(pool, batch.pool));
        QVERIFY(same_bits(rows_of(q, q_dim, batch.num_rows, Batch<T>::kSpareRows),
                          rows_of(batch.q, q_dim, batch.num_rows, Batch<T>::kSpareRows)));
    }
};

QTEST_APPLESS_MAIN(CudaAttentionTest)
#include "attention_test.moc"
