// adapter_config.json of PEFT: what decides the result is read, what does not is known by name, everything else is
// refused. Sources: peft src/peft/config.py and tuners/{lora,boft,oft}/config.py, releases 0.7 to 0.21.
#pragma once

#include "core/adapter/adapter.h"
#include "core/adapter/rotation.h"
#include "core/base/json.h"

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace spartan {

template <class T>
using PatternList = std::vector<std::pair<std::string, T>>;  // in the file's order: the first match counts

struct PeftConfig {
    std::string file;  // for messages
    AdapterKind kind{};
    std::string base_name;

    // Which modules PEFT would adapt. Lists only: a target_modules that is a pattern, "all-linear" or null is not run,
    // and the tensors in the file decide.
    std::optional<std::vector<std::string>> targets, excluded;
    std::optional<std::vector<int64_t>> layers;
    bool keeps_bias = false;                                           // `bias` is not "none"
    std::vector<std::string> saved;                                    // modules_to_save
    std::vector<std::pair<std::string, std::vector<int64_t>>> tokens;  // trainable_token_indices by module name
    bool ties_weights = false;                                         // ensure_weight_tying

    // The ids of the trained tokens of `module`, in the order of their rows; null: none.
    const std::vector<int64_t>* tokens_of(const std::string& module) const;

    int64_t r = 8;  // LoRA
    double alpha = 8;
    bool rslora = false, lora_bias = false;
    PatternList<int64_t> rank_pattern;
    PatternList<double> alpha_pattern;

    int64_t boft_block_size = 4, boft_block_num = 0, boft_factors = 1;

    bool has_oft_block_size = false;
    int64_t oft_r = 0, oft_block_size = 32;
    bool oft_constrained = false, oft_block_share = false, oft_neumann = true;
    int64_t oft_terms = 5;
    double oft_eps = 6e-5;
    NeumannSeries oft_series = NeumannSeries::peft_0_16;

    std::vector<std::string> warnings;
    std::optional<Error> problem;  // why the adapter cannot be served, although it was understood what it is
};

// An error when it is not known what kind of adapter this is; a `problem` for everything else.
Result<PeftConfig> parse_peft_config(const Json& json, const std::string& file);

// PEFT's get_pattern_key: the value of the first key with re.match(r"(.*\.)?(KEY)$", module), or null. Keys are matched
// with PCRE2 under tight limits; those that go beyond the syntax that Python and PCRE share are refused.
template <class T>
Result<const T*> find_pattern(const PatternList<T>& patterns, const std::string& module, const std::string& file,
                              const std::string& field);
extern template Result<const int64_t*> find_pattern(const PatternList<int64_t>&, const std::string&, const std::string&,
                                                    const std::string&);
extern template Result<const double*> find_pattern(const PatternList<double>&, const std::string&, const std::string&,
                                                   const std::string&);

// PEFT's rule for lists: module == entry, or module ends in "." + entry.
bool matches_list(const std::vector<std::string>& entries, const std::string& module);

}  // namespace spartan
